// swift-tools-version: 6.2
//
// The layering of MWStorage. Arrows point down; siblings never import each other. `scripts/check` compares this
// manifest with scripts/layering.json and fails on any edge that is not listed there.
//
//                                mwstorage (command)
//      ┌───────────┬──────────────────┼───────────┬───────────────────┬────────────────┐
//      │      MWPolicyFile            │           │                   │                │
//  MWRocksDB    MWServer           MWClient   MWKeystore    MWCertificateManager  MWHTTPTransfer
//  MWLevelDB     │  └───────┬─────────┘           │                MWACME              │
//    │   └─ MWStorage       ├─ MWTLS ─────────────┴─── MWPKI ───────┘                CCurl
//  CRocksDB                 ├─ MWWebSocket                │                  MWPrometheus (metrics)
//  CLevelDB                 └─ MWProtocol             COpenSSL              CLinux (process)

import PackageDescription

let settings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
    .treatAllWarnings(as: .error),
    .strictMemorySafety(),
]

let nioCore = Target.Dependency.product(name: "NIOCore", package: "swift-nio")
let nioPosix = Target.Dependency.product(name: "NIOPosix", package: "swift-nio")
let nioHTTP1 = Target.Dependency.product(name: "NIOHTTP1", package: "swift-nio")
let nioEmbedded = Target.Dependency.product(name: "NIOEmbedded", package: "swift-nio")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let metrics = Target.Dependency.product(name: "Metrics", package: "swift-metrics")
let serviceLifecycle = Target.Dependency.product(name: "ServiceLifecycle", package: "swift-service-lifecycle")
let unixSignals = Target.Dependency.product(name: "UnixSignals", package: "swift-service-lifecycle")
let argumentParser = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let configuration = Target.Dependency.product(name: "Configuration", package: "swift-configuration")
let systemPackage = Target.Dependency.product(name: "SystemPackage", package: "swift-system")
let deque = Target.Dependency.product(name: "DequeModule", package: "swift-collections")
let yams = Target.Dependency.product(name: "Yams", package: "Yams")
let histogram = Target.Dependency.product(name: "Histogram", package: "hdrhistogram-swift")

func module(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: settings)
}

func tests(of name: String, _ dependencies: [Target.Dependency]) -> Target {
    .testTarget(name: name + "Tests", dependencies: [.init(stringLiteral: name)] + dependencies, swiftSettings: settings)
}

let package = Package(
    name: "mwstorage",
    platforms: [.macOS(.v15)],
    products: [
        .executable(name: "mwstorage", targets: ["mwstorage"]),
        .library(name: "MWStorageServer", targets: ["MWServer", "MWPolicyFile", "MWRocksDB", "MWPKI"]),
        .library(name: "MWStorageClient", targets: ["MWClient", "MWPKI"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        .package(url: "https://github.com/apple/swift-configuration", from: "1.4.0", traits: ["YAML"]),
        // Swift-configuration reads its own files with it too.
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
    ],
    targets: [
        // The C libraries: headers, and the macros and variadics they need as typed inline functions.
        .systemLibrary(name: "COpenSSL", pkgConfig: "openssl", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CCurl", providers: [.apt(["libcurl4-openssl-dev"])]),
        .systemLibrary(name: "CRocksDB", providers: [.apt(["librocksdb-dev"])]),
        .systemLibrary(name: "CLevelDB", providers: [.apt(["libleveldb-dev"])]),
        .systemLibrary(name: "CLinux"),

        // Certificates, keys, identities, trust stores and CRLs as values.
        module("MWPKI", ["COpenSSL"]),
        // PKCS#12, JKS and PEM bundles: read, write, convert.
        module("MWKeystore", ["MWPKI", "COpenSSL"]),
        // One TLS session, bytes in and bytes out; who may be a peer; the NIO handler.
        module("MWTLS", ["MWPKI", "COpenSSL", nioCore]),
        // Opening handshake rules, frames, messages, closing.
        module("MWWebSocket", [nioCore]),
        // What is inside the messages: mwDB's requests and replies.
        module("MWProtocol", [nioCore]),
        // RFC 8555: objects, signed requests, the order's life, when to renew. Declares the transfer it needs.
        module("MWACME", ["MWPKI"]),
        // One HTTPS request, one response, on a libcurl thread of its own.
        module("MWHTTPTransfer", ["CCurl"]),
        // Does what MWACME says: state on disk, challenges answered, certificates renewed.
        module(
            "MWCertificateManager", ["MWPKI", "MWACME", nioCore, nioPosix, nioHTTP1, logging, metrics, serviceLifecycle]),
        // Keys, values, atomic writes, durability and prefixes over a `StorageEngine`.
        module("MWStorage", ["CLinux"]),
        // `StorageEngine` on RocksDB, and on LevelDB.
        module("MWRocksDB", ["MWStorage", "CRocksDB", "CLinux"]),
        module("MWLevelDB", ["MWStorage", "CLevelDB"]),
        // The metrics of a process in Prometheus' text format: a backend of swift-metrics.
        module("MWPrometheus", [metrics]),
        // Listen, authenticate, dispatch, drain.
        module(
            "MWServer",
            [
                "MWPKI", "MWTLS", "MWWebSocket", "MWProtocol", "MWStorage",
                nioCore, nioPosix, nioHTTP1, logging, metrics, serviceLifecycle, deque,
            ]),
        // The access policy from YAML: the only code that knows it.
        module("MWPolicyFile", ["MWServer", "MWPKI", yams]),
        // Connect, multiplex, retry.
        module(
            "MWClient",
            ["MWPKI", "MWTLS", "MWWebSocket", "MWProtocol", nioCore, nioPosix, nioHTTP1, logging, deque]),
        // Arguments to calls to exit codes.
        .executableTarget(
            name: "mwstorage",
            dependencies: [
                "MWPKI", "MWKeystore", "MWTLS", "MWWebSocket", "MWProtocol", "MWStorage", "MWRocksDB", "MWLevelDB",
                "MWServer", "MWPolicyFile", "MWClient", "MWACME", "MWCertificateManager", "MWHTTPTransfer",
                "MWPrometheus", "CLinux",
                nioCore, nioPosix, logging, metrics, unixSignals, argumentParser, configuration, systemPackage, histogram,
            ],
            swiftSettings: settings),

        // Echo server and client out of the same layers, for conformance suites and raw probes.
        .executableTarget(
            name: "mwstorage-echo",
            dependencies: ["MWPKI", "MWTLS", "MWWebSocket", "MWServer", "MWClient", nioCore, nioPosix, argumentParser, logging],
            path: "Tests/mwstorage-echo",
            swiftSettings: settings),
        // Runs any bytes through the decoders; see scripts/fuzz.
        .executableTarget(
            name: "mwstorage-fuzz",
            dependencies: [
                "COpenSSL", "MWPKI", "MWKeystore", "MWACME", "MWProtocol", "MWWebSocket", "MWServer", "MWPolicyFile", "MWClient",
                "MWStorage", "MWRocksDB", nioCore,
            ],
            path: "Tests/mwstorage-fuzz", swiftSettings: settings),
        .systemLibrary(name: "CEpoll", path: "Tests/CEpoll"),
        // Watchers of ours and of Redis, measured alike; see scripts/bench watch.
        .executableTarget(
            name: "mwstorage-bench",
            dependencies: ["CEpoll", "MWPKI", "MWTLS", "MWWebSocket", "MWProtocol", nioCore, argumentParser, histogram],
            path: "Tests/mwstorage-bench", swiftSettings: settings),
        // Serves fixed requests in memory, for their instructions to be counted; see scripts/check instructions.
        .executableTarget(
            name: "mwstorage-instructions",
            dependencies: ["MWPKI", "MWTLS", "MWWebSocket", "MWProtocol", "MWStorage", "MWServer", nioCore, nioEmbedded, logging],
            path: "Tests/mwstorage-instructions", swiftSettings: settings),
        // Certificates made at run time for the tests.
        .target(
            name: "TestCertificates", dependencies: ["MWPKI", "COpenSSL"], path: "Tests/TestCertificates",
            swiftSettings: settings),
        // An ACME server as a value, with faults.
        .target(
            name: "FakeCA", dependencies: ["MWACME", "MWPKI", "TestCertificates", "COpenSSL"], path: "Tests/FakeCA",
            swiftSettings: settings),
        // A scripted HTTPS server, for whoever has to face a bad one.
        .target(
            name: "TestHTTPS", dependencies: ["MWPKI", "COpenSSL"], path: "Tests/TestHTTPS", swiftSettings: settings),
        // The CAs pebble and caddy as processes of a test.
        .target(
            name: "ACMEPeers", dependencies: ["MWACME", "MWPKI", "TestCertificates"], path: "Tests/ACMEPeers",
            swiftSettings: settings),
        // What every `StorageEngine` must do, and an in-memory engine with faults.
        .target(
            name: "EngineContract", dependencies: ["MWStorage"], path: "Tests/EngineContract",
            swiftSettings: settings),

        // What a store and its watches may do, as a model, and checkers of what they did.
        .target(name: "History", path: "Tests/History", swiftSettings: settings),
        // Clients, network and server on one thread and one clock, from a seed.
        .target(
            name: "Simulation",
            dependencies: [
                "History", "EngineContract", "TestCertificates", "MWPKI", "MWTLS", "MWProtocol", "MWStorage", "MWServer", "MWClient",
                nioCore, nioEmbedded, logging, deque,
            ],
            path: "Tests/Simulation", swiftSettings: settings),
        .executableTarget(
            name: "mwstorage-simulate", dependencies: ["Simulation"], path: "Tests/mwstorage-simulate", swiftSettings: settings),
        // A strict reader of Prometheus' text format.
        .target(name: "Exposition", path: "Tests/Exposition", swiftSettings: settings),

        // Writes, acknowledges and gets killed, for the tests of what survives.
        .executableTarget(
            name: "mwstorage-crash",
            dependencies: ["MWStorage", "MWRocksDB", "MWLevelDB", "MWPKI", "MWACME", "MWCertificateManager", "FakeCA"],
            path: "Tests/mwstorage-crash",
            swiftSettings: settings),

        tests(of: "History", []),
        tests(of: "Simulation", ["History", "mwstorage-simulate"]),
        tests(of: "MWPKI", ["TestCertificates", "COpenSSL"]),
        tests(of: "MWKeystore", ["MWPKI", "TestCertificates"]),
        tests(of: "MWTLS", ["MWPKI", "TestCertificates", "COpenSSL", nioCore, nioEmbedded, nioPosix]),
        tests(of: "MWWebSocket", [nioCore]),
        tests(of: "MWProtocol", [nioCore]),
        tests(of: "MWACME", ["MWPKI", "FakeCA", "TestCertificates", "COpenSSL"]),
        tests(of: "MWHTTPTransfer", ["MWPKI", "TestCertificates", "TestHTTPS"]),
        tests(
            of: "MWCertificateManager",
            ["MWPKI", "MWACME", "FakeCA", "TestCertificates", "mwstorage-crash", nioCore, nioPosix, logging]),
        tests(of: "MWStorage", ["EngineContract"]),
        tests(of: "MWRocksDB", ["MWStorage", "CRocksDB", "EngineContract", "mwstorage-crash"]),
        tests(of: "MWLevelDB", ["MWStorage", "EngineContract", "mwstorage-crash"]),
        tests(of: "MWPrometheus", ["Exposition", metrics]),
        tests(
            of: "MWServer",
            [
                "MWPKI", "MWTLS", "MWWebSocket", "MWProtocol", "MWStorage", "EngineContract", "TestCertificates",
                nioCore, nioPosix, nioEmbedded, nioHTTP1, logging, metrics,
            ]),
        tests(of: "MWPolicyFile", ["MWServer", "MWPKI"]),
        tests(
            of: "MWClient",
            [
                "MWPKI", "MWTLS", "MWWebSocket", "MWProtocol", "TestCertificates",
                nioCore, nioPosix, nioEmbedded, nioHTTP1, logging,
            ]),
        // The whole: client and server joined, the command, real peers, processes that are killed.
        .testTarget(
            name: "EndToEndTests",
            dependencies: [
                "mwstorage", "mwstorage-echo", "MWPKI", "MWKeystore", "MWTLS", "MWStorage", "MWRocksDB", "MWLevelDB", "MWServer",
                "MWClient",
                "MWProtocol", "MWWebSocket", "MWACME", "MWCertificateManager", "EngineContract", "TestCertificates",
                "ACMEPeers", "FakeCA", "TestHTTPS", "Exposition", "History", "Simulation", nioCore, nioPosix, logging,
            ],
            exclude: ["Java"],
            swiftSettings: settings),
    ]
)
