"""What a training run would take, counted before it is started."""
