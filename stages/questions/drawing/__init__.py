"""What sections are drawn with: taps in their colours, charts, numbers, pictures, and the macros of their templates."""
