"""A run as a page: one HTML file that needs nothing else."""

from keras_swd.run_report.page import write_page as write_page
