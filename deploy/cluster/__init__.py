"""A real Kubernetes on one machine: a control plane and two workers, with Genmesh's chart installed."""
