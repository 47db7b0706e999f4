"""TFLite files: written, run, compared with Keras, and read."""
