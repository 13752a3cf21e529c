/// Where the access policy comes from. Loaded at the start and again on each reload; when a load fails, the policy in use stays.
///
/// MWPolicyFile has the one that reads a file.
public struct AccessPolicySource: Sendable {
    /// Reads everything anew, and throws ``AccessPolicyError`` for a policy that cannot be used. Blocks for the reading.
    package let load: @Sendable () throws -> AccessPolicy
    /// The files that it reads: who wants to know of changes watches these.
    package let paths: [String]

    package init(paths: [String] = [], load: @escaping @Sendable () throws -> AccessPolicy) {
        self.paths = paths
        self.load = load
    }
}
