"""tocsin.runtime"""
