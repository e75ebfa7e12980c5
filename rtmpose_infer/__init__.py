"""RTMPose in production: detection, pose estimation and tracking behind one small API."""

__version__ = "0.1.0"
