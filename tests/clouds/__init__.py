"""The files for Kubernetes, SkyPilot and Docker: read by their libraries, and run."""
