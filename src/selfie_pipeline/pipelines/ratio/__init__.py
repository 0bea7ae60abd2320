"""Pipeline that repeats the experiment with encoders pretrained on fewer images."""
