// EngineContract
