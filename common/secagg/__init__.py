"""Secure aggregation: the centre learns the sum over a cohort, and nothing else about a vector.

Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", CCS 2017
(https://eprint.iacr.org/2017/281), in the form against an active server, complete graph, 3 to 100
plants. Two exchanges a round when nobody drops out, three when somebody does.

Covered: a server that deviates from the protocol in any way, helped by up to ``2t - n - 1`` plants,
learns no more than sums over sets of at least ``t = floor(2n/3) + 1`` plants of which each named
set was signed by ``t`` of them. Plants sum only with identities that their engineer accepted.
Whatever does not fit makes the honest plant release nothing.

Not covered: subtracting sums of different rounds or survivor sets, and a release made to provoke a
telling update (differential privacy bounds both); a plant that lies about its own update; a memory
snapshot of a plant.

=============  ==================================================================
`transcript`   how values become bytes; sessions; labels
`shares`       Shamir's secret sharing
`keys`         a session's secrets and what is derived from them
`masks`        key streams added to words
`encoding`     vectors as fields of words, and back from the sum
`roster`       the adverts of a session, checked
`terms`        the signed order to sum
`member`       a plant's state machine
`coordinator`  the centre's side
`messages`     how all of it travels
=============  ==================================================================
"""
