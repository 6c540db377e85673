"""What users put into their pipelines: the transform, its targets, and whole batches on a GPU."""
