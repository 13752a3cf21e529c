// Tests of MWWebSocket
