// The policy file:
//
//     version: 1
//     principals:
//       - name: editor                                     each rule names one principal
//         match:                                           one of these suffices
//           - uri: spiffe://example.org/ns/*/sa/editor     the certificate's only URI name
//           - dns: "*.editors.example.org"                 one of its DNS names
//           - cn: alice                                    its common name, where it has no subject alternative name
//           - sha256: 3f0c…                                the certificate's SHA-256
//           - spki: 9b21…                                  its public key's SHA-256
//           - alias: wstestkeyclt                          its name in the trust store
//         allow:
//           - rights: [read, watch]                        of read, write, watch, administer
//             keys: all
//           - rights: [write]
//             prefixes: ["world/", {base64: "AQI="}]       keys that begin with one of these
//
// Nothing else: a field that is not known here could have been meant to restrict something.

internal import MWPKI

/// Turns the contents of a policy file into rules, and finds everything that is wrong with it, not only the first thing.
package struct AccessPolicyReader {
    private var faults: [AccessPolicyError.Fault] = []

    /// 128 bytes: a name is in each line of the log that concerns the principal.
    private static let maximumNameBytes = 128
    /// No key is longer than what a message can carry; a prefix of a page is a mistake.
    private static let maximumPrefixBytes = 4_096
    private static let version = "1"

    private init() {}

    /// - Parameter source: The file's name, for messages.
    package static func policy(_ root: PolicyNode, source: String) throws(AccessPolicyError) -> AccessPolicy {
        var reader = AccessPolicyReader()
        let rules = reader.document(root)
        guard reader.faults.isEmpty else {
            // What the rules that could be read have wrong among them belongs to the same answer.
            do {
                _ = try AccessPolicy(rules: rules, source: source)
            } catch {
                reader.faults += error.faults.filter { fault in fault.line != nil && !reader.faults.contains { $0.line == fault.line } }
            }
            throw AccessPolicyError(source: source, faults: reader.faults)
        }
        return try AccessPolicy(rules: rules, source: source)
    }

    // MARK: Structure

    private mutating func document(_ root: PolicyNode) -> [AccessRule] {
        guard let fields = self.fields(root, of: "the policy", known: ["version", "principals"], remedy: Self.exampleOfFile) else {
            return []
        }
        if let version = self.required("version", fields, of: "the policy", at: root, remedy: "write: version: 1") {
            let text: String =
                switch version.content {
                case .text(let text), .other(let text): text
                case .list, .map: version.kind
                }
            if text != Self.version {
                self.fault(version, "version \(PolicyText.shown(text)) is not known", "write: version: 1")
            }
        }
        let principals = self.required("principals", fields, of: "the policy", at: root, remedy: Self.exampleOfFile)
        guard let principals, let items = self.list(principals, "principals", remedy: "write rules, each beginning with '- name: …'") else {
            return []
        }
        return items.compactMap { self.rule($0) }
    }

    private mutating func rule(_ node: PolicyNode) -> AccessRule? {
        let remedy = "write the rule with name, match and allow"
        guard let fields = self.fields(node, of: "a rule", known: ["name", "match", "allow"], remedy: remedy) else { return nil }
        let nameNode = self.required("name", fields, of: "the rule", at: node, remedy: "give it a name: it is what the log says")
        let name = nameNode.flatMap { self.name($0) }
        let match = self.required(
            "match", fields, of: "the rule", at: node, remedy: "say whom it is about, as: match: [{dns: editor.example.org}]")
        let matchers = match.flatMap { self.list($0, "match", remedy: Self.exampleOfMatch) }?.compactMap { self.matcher($0) }
        let allow = self.required(
            "allow", fields, of: "the rule", at: node, remedy: "say what it may do, as: allow: [{rights: [read], keys: all}]")
        let grants = allow.flatMap { self.list($0, "allow", remedy: Self.exampleOfAllow) }?.compactMap { self.grant($0) }
        guard let name, let matchers, let grants, !matchers.isEmpty, !grants.isEmpty else { return nil }
        return AccessRule(name: name, matchers: matchers, grants: AccessGrants(grants), place: nameNode?.place)
    }

    private mutating func name(_ node: PolicyNode) -> String? {
        guard let name = self.text(node, "the name") else { return nil }
        guard (1...Self.maximumNameBytes).contains(name.utf8.count), VisibleText.escape(name) == name,
            name.first?.isWhitespace == false, name.last?.isWhitespace == false
        else {
            self.fault(
                node, "a name has 1 to \(Self.maximumNameBytes) bytes of visible text", "correct it: it stands in each line of the log")
            return nil
        }
        return name
    }

    // MARK: match

    private mutating func matcher(_ node: PolicyNode) -> IdentityMatcher? {
        let known = IdentityMatcher.Kind.allCases.map(\.rawValue)
        guard let fields = self.fields(node, of: "an entry of match", known: known, remedy: Self.exampleOfMatch) else { return nil }
        guard fields.count == 1, let (name, value) = fields.first, let kind = IdentityMatcher.Kind(rawValue: name) else {
            if !fields.isEmpty {
                self.fault(
                    node, "an entry of match names one thing, this one names \(fields.keys.sorted().joined(separator: ", "))",
                    "write an entry for each, beginning with '-': any of them suffices")
            }
            return nil
        }
        guard let text = self.text(value, name) else { return nil }
        do throws(NamePattern.Malformed) {
            return try Self.matcher(kind, text)
        } catch {
            self.fault(value, "\(name) \(PolicyText.shown(text)): \(error.what)", error.remedy)
            return nil
        }
    }

    private static func matcher(_ kind: IdentityMatcher.Kind, _ text: String) throws(NamePattern.Malformed) -> IdentityMatcher {
        switch kind {
        case .uri: return .uri(try NamePattern(uri: text))
        case .dns: return .dns(try NamePattern(dns: text))
        case .commonName: return .commonName(try self.plainName(text))
        case .alias: return .alias(try self.plainName(text))
        case .fingerprint:
            guard let fingerprint = CertificateFingerprint(text) else { throw self.malformedDigest("certificate") }
            return .fingerprint(fingerprint)
        case .publicKey:
            guard let pin = PublicKeyPin(text) else { throw self.malformedDigest("public key") }
            return .publicKey(pin)
        }
    }

    private static func malformedDigest(_ whose: String) -> NamePattern.Malformed {
        .init(
            what: "not the SHA-256 of a \(whose)",
            remedy: "write its 64 hexadecimal digits; see: mwstorage certificate inspect FILE")
    }

    private static func plainName(_ text: String) throws(NamePattern.Malformed) -> String {
        guard !text.contains("*") else {
            throw .init(what: "a '*' has no meaning here", remedy: "write the whole name; '*' is for uri and dns")
        }
        guard !text.isEmpty, VisibleText.escape(text) == text else {
            throw .init(what: "no certificate has such a name", remedy: "write the name, of visible characters")
        }
        return text
    }

    // MARK: allow

    private mutating func grant(_ node: PolicyNode) -> AccessGrant? {
        let known = ["rights", "keys", "prefixes"]
        guard let fields = self.fields(node, of: "an entry of allow", known: known, remedy: Self.exampleOfAllow) else { return nil }
        let rights = self.required("rights", fields, of: "the entry", at: node, remedy: Self.exampleOfAllow).flatMap { self.rights($0) }
        switch (fields["keys"], fields["prefixes"]) {
        case (let keys?, nil):
            guard case .text("all") = keys.content else {
                self.fault(keys, "keys can be 'all' only", "write keys: all, or the beginnings of keys under prefixes")
                return nil
            }
            return rights.map { AccessGrant($0, over: .all) }
        case (nil, let prefixes?):
            guard let items = self.list(prefixes, "prefixes", remedy: "write a list of texts, as: prefixes: [\"world/\"]") else {
                return nil
            }
            var seen: Set<[UInt8]> = []
            let bytes = items.compactMap { item -> [UInt8]? in
                guard let prefix = self.prefix(item) else { return nil }
                if !seen.insert(prefix).inserted {
                    self.fault(item, "the prefix '\(PolicyText.escaped(prefix))' is there twice", "remove one")
                }
                return prefix
            }
            guard let rights, bytes.count == items.count else { return nil }
            return AccessGrant(rights, over: .prefixes(bytes))
        case (nil, nil), (_?, _?):
            let what = fields["keys"] == nil ? "the entry does not say which keys" : "the entry has both keys and prefixes"
            self.fault(node, what, "write either keys: all, or prefixes: […]")
            return nil
        }
    }

    private mutating func rights(_ node: PolicyNode) -> AccessRights? {
        let known = AccessRight.allCases.map(\.rawValue).joined(separator: ", ")
        guard let items = self.list(node, "rights", remedy: "write a list of \(known), as: rights: [read, watch]") else { return nil }
        var rights: [AccessRight] = []
        for item in items {
            guard let text = self.text(item, "a right") else { return nil }
            guard let right = AccessRight(rawValue: text) else {
                self.fault(item, "the right \(PolicyText.shown(text)) is not known", "write one of \(known)")
                return nil
            }
            if rights.contains(right) { self.fault(item, "the right \(text) is there twice", "remove one") }
            rights.append(right)
        }
        return AccessRights(rights)
    }

    private mutating func prefix(_ node: PolicyNode) -> [UInt8]? {
        var bytes: [UInt8]
        if case .map = node.content {
            guard let fields = self.fields(node, of: "a prefix", known: ["base64"], remedy: "write {base64: \"…\"}"),
                let value = self.required("base64", fields, of: "the prefix", at: node, remedy: "write {base64: \"…\"}"),
                let text = self.text(value, "base64")
            else { return nil }
            guard let decoded = Base64.decode(Array(text.utf8)) else {
                self.fault(value, "\(PolicyText.shown(text)) is not base64", "write it with: printf … | base64 -w0")
                return nil
            }
            bytes = decoded
        } else {
            guard let text = self.text(node, "a prefix") else { return nil }
            bytes = Array(text.utf8)
        }
        guard (1...Self.maximumPrefixBytes).contains(bytes.count) else {
            self.fault(
                node, bytes.isEmpty ? "an empty prefix is every key" : "a prefix has at most \(Self.maximumPrefixBytes) bytes",
                bytes.isEmpty ? "if that is meant, write keys: all in place of prefixes" : "shorten it")
            return nil
        }
        return bytes
    }
}

// MARK: - Values

extension AccessPolicyReader {
    private mutating func fields(_ node: PolicyNode, of what: String, known: [String], remedy: String) -> [String: PolicyNode]? {
        guard case .map(let members) = node.content else {
            self.fault(node, "\(what) is a map, this is \(node.kind)", remedy)
            return nil
        }
        var fields: [String: PolicyNode] = [:]
        var isKnown = true
        for (name, value) in members {
            guard case .text(let text) = name.content, known.contains(text) else {
                var shown = name.kind
                if case .text(let text) = name.content { shown = PolicyText.shown(text) }
                self.fault(name, "\(what) has no field \(shown)", "correct or remove it; known are \(known.joined(separator: ", "))")
                isKnown = false
                continue
            }
            if fields.updateValue(value, forKey: text) != nil {
                self.fault(name, "the field \(text) is there twice", "remove one")
                isKnown = false
            }
        }
        if members.isEmpty {
            self.fault(node, "\(what) is empty", remedy)
            return nil
        }
        // Its other fields are judged all the same.
        return isKnown || !fields.isEmpty ? fields : nil
    }

    private mutating func required(
        _ name: String, _ fields: [String: PolicyNode], of what: String, at node: PolicyNode, remedy: String
    ) -> PolicyNode? {
        if let field = fields[name] { return field }
        self.fault(node, "\(what) has no \(name)", remedy)
        return nil
    }

    /// Never empty.
    private mutating func list(_ node: PolicyNode, _ name: String, remedy: String) -> [PolicyNode]? {
        guard case .list(let items) = node.content else {
            self.fault(node, "\(name) is a list, this is \(node.kind)", remedy)
            return nil
        }
        guard !items.isEmpty else {
            self.fault(node, "\(name) is empty", remedy)
            return nil
        }
        return items
    }

    private mutating func text(_ node: PolicyNode, _ what: String) -> String? {
        if case .text(let text) = node.content { return text }
        var remedy = "write text"
        if case .other = node.content { remedy = "write it in quotes" }
        self.fault(node, "\(what) must be text, this is \(node.kind)", remedy)
        return nil
    }

    private mutating func fault(_ node: PolicyNode, _ what: String, _ remedy: String) {
        self.faults.append(.init(node.place, what, remedy: remedy))
    }

    private static let exampleOfFile = "begin with version: 1, and put rules under principals:"
    private static let exampleOfMatch = "write a list with uri, dns, cn, sha256, spki or alias, as: match: [{dns: editor.example.org}]"
    private static let exampleOfAllow =
        "write rights, and keys: all or prefixes: […], as: allow: [{rights: [read], prefixes: [\"world/\"]}]"
}
