"""What a trained network says about files: the same call for every task and every kind of model file."""
