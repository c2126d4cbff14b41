"""The worker: one supervised process that holds the models and runs the graph.

`supervisor` is the parent's side (light), `process` the child's, `messages` what
passes between them, `analysis` the job that radloop runs there. Any other
picklable factory of a job will do; a factory is called once, in the child.
"""
