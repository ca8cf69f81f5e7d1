"""What makes it a service: hand-over between threads, measurements, the pipeline."""
