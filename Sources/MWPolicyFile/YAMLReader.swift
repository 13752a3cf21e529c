internal import MWServer
internal import Yams

/// From YAML's text to values with places. What makes YAML surprising is refused rather than guessed: tags, anchors and aliases, several
/// documents, and words without quotes that are no text in YAML (`no`, `1e3`, `12:30`) where text is meant.
struct YAMLReader {
    /// The file, for messages.
    let source: String

    /// The policy's own form is seven deep.
    private static let maximumDepth = 16

    func node(_ bytes: [UInt8]) throws(AccessPolicyError) -> PolicyNode {
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw self.fault(nil, "it is not UTF-8 text", remedy: "save it as UTF-8")
        }
        if let place = AliasScan.firstAnchor(in: bytes) { throw self.aliasFault(place) }
        let parser: Parser
        let root: Node?
        do {
            // Without rules for words: those apply below, where a word stands for itself.
            parser = try Parser(yaml: text, resolver: .basic, encoding: .utf8)
            root = try parser.singleRoot()
        } catch {
            throw self.fault(error)
        }
        guard let root else {
            throw self.fault(nil, "it is empty", remedy: "begin with version: 1, and put rules under principals:")
        }
        // Nodes know their anchors only as long as the parser lives.
        return try withExtendedLifetime(parser) { () throws(AccessPolicyError) in try self.convert(root, depth: 0) }
    }

    private func convert(_ node: Node, depth: Int) throws(AccessPolicyError) -> PolicyNode {
        let place = PolicyPlace(line: node.mark?.line ?? 1, column: node.mark?.column ?? 1)
        guard depth < Self.maximumDepth else {
            throw self.fault(
                place, "lists and maps are more than \(Self.maximumDepth) deep", remedy: "a policy never is; remove them")
        }
        guard node.anchor == nil else { throw self.aliasFault(place) }
        switch node {
        case .alias: throw self.aliasFault(place)
        case .scalar(let scalar):
            try self.checkTag(scalar.tag, [.implicit, .str], place)
            let isWord = scalar.style == .plain && scalar.tag == .implicit && YAMLWords.isOther(scalar.string)
            return PolicyNode(isWord ? .other(scalar.string) : .text(scalar.string), at: place)
        case .sequence(let sequence):
            try self.checkTag(sequence.tag, [.implicit, .seq], place)
            var items: [PolicyNode] = []
            for item in sequence { items.append(try self.convert(item, depth: depth + 1)) }
            return PolicyNode(.list(items), at: place)
        case .mapping(let mapping):
            try self.checkTag(mapping.tag, [.implicit, .map], place)
            var members: [(name: PolicyNode, value: PolicyNode)] = []
            for (name, value) in mapping {
                members.append((try self.name(name, depth: depth + 1), try self.convert(value, depth: depth + 1)))
            }
            return PolicyNode(.map(members), at: place)
        }
    }

    /// Looking for duplicates has given it the tag that it would have had anyway.
    private func name(_ node: Node, depth: Int) throws(AccessPolicyError) -> PolicyNode {
        guard case .scalar(let scalar) = node, scalar.style == .plain, scalar.tag.rawValue == Tag.Name.str.rawValue, scalar.anchor == nil,
            YAMLWords.isOther(scalar.string)
        else { return try self.convert(node, depth: depth) }
        return PolicyNode(.other(scalar.string), at: PolicyPlace(line: node.mark?.line ?? 1, column: node.mark?.column ?? 1))
    }

    private func checkTag(_ tag: Tag, _ known: [Tag.Name], _ place: PolicyPlace) throws(AccessPolicyError) {
        guard known.contains(where: { $0.rawValue == tag.rawValue }) else {
            throw self.fault(
                place, "the tag \(PolicyText.shown(tag.rawValue)) has no meaning here", remedy: "remove what begins with '!'")
        }
    }

    private func aliasFault(_ place: PolicyPlace) -> AccessPolicyError {
        self.fault(
            place, "anchors ('&') and aliases ('*') are not used here",
            remedy: "write the value out; text with '*' or '&' in it goes in quotes")
    }

    private func fault(_ place: PolicyPlace?, _ what: String, remedy: String) -> AccessPolicyError {
        AccessPolicyError(source: self.source, faults: [.init(place, what, remedy: remedy)])
    }

    private func fault(_ error: any Error) -> AccessPolicyError {
        func fault(_ mark: Mark?, _ what: String, _ remedy: String = "correct it: it is not YAML") -> AccessPolicyError {
            self.fault(mark.map { PolicyPlace(line: $0.line, column: $0.column) }, what, remedy: remedy)
        }
        switch error as? YamlError {
        case .scanner(let context, let problem, let mark, _)?, .parser(let context, let problem, let mark, _)?:
            guard context?.text.contains("alias") != true else {
                return fault(mark, "a '*' without quotes begins an alias", "write the name in quotes: \"*.example.org\"")
            }
            return fault(mark, [context?.text, problem].compactMap { $0 }.joined(separator: ", "))
        case .composer(_, let problem, let mark, _)?: return fault(mark, problem, "write one document, without anchors and aliases")
        case .duplicatedKeysInMapping(let names, let context)?:
            return fault(
                context.mark, "the field \(names.map { PolicyText.shown($0) }.joined(separator: ", ")) is there twice", "remove one")
        case .reader(let problem, _, _, _)?: return fault(nil, problem, "remove control characters")
        default: return fault(nil, "it cannot be parsed", "correct it: it is not YAML")
        }
    }
}

/// Words without quotes that YAML 1.1 or 1.2 takes for something else than text.
private enum YAMLWords {
    static func isOther(_ word: String) -> Bool {
        guard let first = word.utf8.first else { return true }
        // Every such word begins with one of these; the rules are regular expressions and slow.
        return "0123456789+-.~<=yYnNtTfFoO".utf8.contains(first) && word.utf8.count <= self.longest
            && Resolver.default.resolveTag(of: Node(word)) != .str
    }

    /// No number or date that anybody writes is longer.
    private static let longest = 128
}

/// Finds an anchor in a text that has aliases too.
///
/// Aliases of lists of aliases stand for exponentially many values, which the parser compares where they are names of fields: so they must be
/// found before it. What is in quotes is not told apart here; in a policy nobody has both in one file by chance.
private enum AliasScan {
    static func firstAnchor(in bytes: [UInt8]) -> PolicyPlace? {
        var anchor: PolicyPlace?
        var hasAlias = false
        var (line, lineStart) = (1, 0)
        for index in bytes.indices {
            if bytes[index] == UInt8(ascii: "\n") { (line, lineStart) = (line + 1, index + 1) }
            guard bytes[index] == UInt8(ascii: "&") || bytes[index] == UInt8(ascii: "*") else { continue }
            guard index == 0 || self.canPrecede(bytes[index - 1]), index + 1 < bytes.count, self.isNameByte(bytes[index + 1]) else {
                continue
            }
            if bytes[index] == UInt8(ascii: "*") {
                hasAlias = true
            } else {
                anchor = anchor ?? PolicyPlace(line: line, column: index - lineStart + 1)
            }
        }
        return hasAlias ? anchor : nil
    }

    private static func canPrecede(_ byte: UInt8) -> Bool { byte <= 0x20 || byte >= 0x80 || "[{,:".utf8.contains(byte) }

    private static func isNameByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): true
        default: byte == UInt8(ascii: "-") || byte == UInt8(ascii: "_")
        }
    }
}
