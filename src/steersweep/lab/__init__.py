"""The lab zoo: small chat models trained here, so that refusal can be studied on any laptop.

They are miniatures that share an architecture and a chat template style with the models they are
named after. They are not those models and say nothing about them.
"""
