"""What a model is, with numpy alone: spec, features, model directory, receipt, files of graphs and engines."""
