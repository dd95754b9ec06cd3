"""What happens in the driver while trials run: Ray's hooks, the recorder, the cluster."""
