"""What the image has: run while it is built, on the Debian that it is built on.

``contents.toml`` says what is taken and what is left out, each with the reason. ``debian`` copies
the files of Debian's packages, ``trim`` takes out of the Python packages what nothing here runs,
``sbom`` writes down what is there in the end. ``audit`` asks whether any of it is known to be weak.
"""
