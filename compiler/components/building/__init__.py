"""From a spec to a model: the sites where components build, their sizes, and the whole."""
