"""What other libraries make of a model: their quantizers, each as layers that stand in for the model's own."""
