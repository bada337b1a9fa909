"""Image files and the data sets made of them: folders, ImageNet, CIFAR, Hugging Face datasets."""
