"""GRINQH in torch: layers, whole models of transformers, their files, their scores.

Imported only when it is asked for, because torch is.
"""
