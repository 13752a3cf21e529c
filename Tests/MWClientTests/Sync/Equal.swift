import Testing

/// `#expect` takes no calls on machines that cannot be copied.
func equal<Value: Equatable>(_ found: Value, _ expected: Value, _ comment: Comment? = nil, at location: SourceLocation = #_sourceLocation) {
    #expect(found == expected, comment, sourceLocation: location)
}
