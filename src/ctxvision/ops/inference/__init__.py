"""What stands between the convolutions of a network, in inference on a CPU, in few passes over memory."""
