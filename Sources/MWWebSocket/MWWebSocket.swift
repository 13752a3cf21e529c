// MWWebSocket
