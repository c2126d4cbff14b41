"""Routes: which studies go to which bundles, how soon, and where the results go.

A site's `routes.yaml` (docs/routes.md). `load` reads and checks it, `facts` reads
what can be asked of a study from the first bytes of its instances, `plan` answers
for one study, and lists for a person which condition said no. No model library is
imported in this room: the dispatcher asks it while images are coming in.
"""
