"""The decorator of all components.

They are lightweight components, whose source travels in the compiled pipeline and runs in an image that has kfp and
cytoloop: nothing is installed when they start. The image is set on every task when a pipeline is compiled.
"""

from functools import partial

from kfp import dsl

step = partial(dsl.component, base_image="cytoloop-python", install_kfp_package=False, packages_to_install=[])
