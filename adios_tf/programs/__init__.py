"""The programs: settings in, one function of the library called.

Each module runs as `python -m adios_tf.programs.NAME`, as `adios-NAME` where the package is
installed, and as `bin/NAME.py` in a clone. TensorFlow is imported only once the settings are
understood, so that --help, --list and mistakes do not wait for it.
"""
