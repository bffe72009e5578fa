"""tocsin.worker"""
