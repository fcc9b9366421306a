"""What people look at: tables, mask panels, curves, health verdicts and the run's report.

Plain arrays, mappings and files in, text and pictures out; nothing here knows TensorFlow.
"""
