"""Checkpoint → artifact: conversion, quantization, importance matrices, budgets, ONNX.

`workshop.make_target` makes one artifact; `sensitivity`, `solver` and `plan` find the types for a budget.
"""
