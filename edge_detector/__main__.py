"""`python -m edge_detector` is the command `edge-detector`."""

from edge_detector.cli import main

if __name__ == "__main__":
    main()
