"""The picture at the top of README.md: which services there are, and who calls whom.

How it works: `picture.dot` says in Graphviz' language what stands where, `picture.css` how it looks in light and
in dark. `cd ops && python3 -m architecture` has `dot` draw it (Debian's package graphviz) and writes
`docs/images/architecture.svg`, with a stamp of both texts. A test compares that stamp, and the services with
compose.yaml and the table of `./stack`, without drawing anything.

What belongs here: the picture. `./stack` itself never imports it.
"""
