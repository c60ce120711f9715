# SPDX-License-Identifier: Apache-2.0
"""The HTTP side: the ASGI application and the server that carries it."""
