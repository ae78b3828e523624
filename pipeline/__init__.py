"""What a run is: study, graph, key, store, plan, run, command line. The only room that knows the other two."""
