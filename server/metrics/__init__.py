"""What Prometheus reads at the centre."""
