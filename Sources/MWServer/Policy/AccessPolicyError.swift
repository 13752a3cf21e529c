/// Where in a policy file: both numbers begin with 1.
package struct PolicyPlace: Sendable, Hashable, Comparable {
    package let line: Int
    package let column: Int

    package init(line: Int, column: Int) {
        self.line = line
        self.column = column
    }

    package static func < (left: PolicyPlace, right: PolicyPlace) -> Bool { (left.line, left.column) < (right.line, right.column) }
}

/// Everything that is wrong with an access policy, in the order of its file.
public struct AccessPolicyError: Error, Sendable, Hashable {
    /// One thing that is wrong.
    public struct Fault: Sendable, Hashable {
        /// Where it is; both numbers begin with 1. Nil where it is about the whole.
        public let line: Int?
        /// The column of its first character.
        public let column: Int?
        /// What is wrong.
        public let what: String
        /// What to do about it.
        public let remedy: String

        package init(_ place: PolicyPlace?, _ what: String, remedy: String) {
            self.line = place?.line
            self.column = place?.column
            self.what = what
            self.remedy = remedy
        }
    }

    /// The file.
    public let source: String
    /// At least one, and at most ``maximumFaults``.
    public let faults: [Fault]

    /// A file of another kind would otherwise fill the screen.
    public static let maximumFaults = 100

    package init(source: String, faults: [Fault]) {
        let sorted = faults.sorted { ($0.line ?? 0, $0.column ?? 0, $0.what) < ($1.line ?? 0, $1.column ?? 0, $1.what) }
        self.source = source
        self.faults = Array(sorted.prefix(Self.maximumFaults))
    }
}

extension AccessPolicyError: CustomStringConvertible {
    /// One line for each fault: `policy.yaml:3:5: what is wrong; what to do`.
    public var description: String { self.faults.map { "\(self.source)\($0)" }.joined(separator: "\n") }
}

extension AccessPolicyError.Fault: CustomStringConvertible {
    /// `:3:5: what is wrong; what to do`, to stand behind the file's name.
    public var description: String {
        let place = self.line.map { ":\($0):\(self.column ?? 1)" } ?? ""
        return "\(place): \(self.what); \(self.remedy)"
    }
}
