"""What users put into their pipelines: the transform, its targets, and batches on a device."""
