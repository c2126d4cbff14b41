"""The HTTP API: the roadmap's paths, in a process of their own.

`desk` is the parent's side (light: no web framework), `process` the child's main
function, `counter` the child's end of the pipe, `site` the paths, `gate` what stands
before all of them, `upload` and `images` what comes in, `answers` what goes out,
`jobs` the fine-tune job. Nothing here loads a network: an analysis is handed to the
service's one worker.
"""
