"""tocsin.gateway"""
