"""The question `faithfulness`: are samples embedded where their source is."""
