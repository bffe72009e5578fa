"""tocsin.importers"""
