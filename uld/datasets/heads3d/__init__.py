"""A generated data set of heads whose pose and landmarks are known exactly."""
