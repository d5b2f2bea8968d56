"""One module per part, each with `NEEDS`, the modules it imports beyond torch and numpy, and `main(recorder)`."""
