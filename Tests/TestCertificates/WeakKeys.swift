internal import COpenSSL
package import MWPKI

/// Keys that our policy refuses.
package enum WeakKey {
    /// RSA of any length; 1024 takes some milliseconds.
    package static func rsa(bits: Int = 1024) throws -> PrivateKey {
        OpenSSL.prepare()
        return try unsafe owned(COpenSSL_generate_rsa(bits))
    }

    /// EC on any curve that OpenSSL knows, as `secp256k1` or `P-224`.
    package static func ec(curve: String) throws -> PrivateKey {
        OpenSSL.prepare()
        return try unsafe owned(COpenSSL_generate_ec(curve))
    }

    private static func owned(_ key: OpaquePointer?) throws -> PrivateKey {
        guard let key = unsafe key else {
            throw PKIError(.buildFailed, subject: "weak key", "cannot be generated", underlying: OpenSSL.takeErrors())
        }
        return try unsafe PrivateKey(uncheckedOwning: key)
    }

    /// DSA 2048, as keytool made by default before Java 17: `openssl dsaparam -genkey 2048 | openssl pkcs8 -topk8 -nocrypt`.
    package static let dsaPEM = """
        -----BEGIN PRIVATE KEY-----
        MIICXQIBADCCAjYGByqGSM44BAEwggIpAoIBAQCysBZHoCl+I1LMYQ92IM26bGp5
        gi9zwJztC4M+a040RbnMeUpj/rdQ1Xeg06kpfkyosUApL5IrcOKisR1Rk82pZA9J
        wcj3+jrWyTIzjvPUMEyFhkkxjcIoNiqk+z95N7fdcWH19OchXCmZTOR+F4zL7yJn
        rAAKYHVxwggpvB/YO7i44aqlS57DfAwXmp34Za6VlBVw1SR76fYWCnHcZyJz+hqV
        9jsUR870qaAFCLZCwBqjlU2qWVEFt+qU9fYfPfIvjO+3tHdSEgiUfn46Ml3GFhZV
        evd67ASAuN4xDx/YN5B1otFN1cqaEnbI2dMcWorPp/pI7qWI5RmEDAFhj1xJAh0A
        j5TggCwlqfLH88rcBhuf+8CSsVFBksrjb2oPVwKCAQEAlcbR35AggALYerO/GZcf
        aa/GvaMkzlTCoUYHoTUcPnNXFKyu6nN93IpGs3B044zcbICyxDhwR9nKA5bHfqJo
        VfUKpF0w5B23Ec0SZAHX+JtCUAxl0GAH0nHygzZ3wwxLwwpYHhTjBBUVgITDlo/8
        Pu6qNc4OxM2zMvkR1ZXdodZS5V3myuOW9U5PICnBhD0d4/u6XoqQqH2Fx24jA54E
        LBfiiLWQxcOxlKBKNW5xPxEBJffrDRnbw4qhesM/2VEpaTn4qH4H7c4Zgr1BCDS4
        ++Buas4/BWzpid8L3OL9aMyAgc374e0tmqWz/GqQrn9C2pR/N9cuxNJs0Bo7q9kO
        gAQeAhwgqsSKgbgSvoDypP4OZjEsmx+bTaFhj2up4e1X
        -----END PRIVATE KEY-----
        """

    /// Its self-signed certificate, valid until 2126: `openssl req -new -x509 -key dsa.key -subj /CN=dsa -days 36500 -sha256`.
    package static let dsaCertificatePEM = """
        -----BEGIN CERTIFICATE-----
        MIIEWDCCBAagAwIBAgIUJJEXvSs2H/qx/O09VBs55cf2dQYwCwYJYIZIAWUDBAMC
        MA4xDDAKBgNVBAMMA2RzYTAgFw0yNjExMjMwNzMyMDNaGA8yMTI2MTAzMDA3MzIw
        M1owDjEMMAoGA1UEAwwDZHNhMIIDQzCCAjYGByqGSM44BAEwggIpAoIBAQCysBZH
        oCl+I1LMYQ92IM26bGp5gi9zwJztC4M+a040RbnMeUpj/rdQ1Xeg06kpfkyosUAp
        L5IrcOKisR1Rk82pZA9Jwcj3+jrWyTIzjvPUMEyFhkkxjcIoNiqk+z95N7fdcWH1
        9OchXCmZTOR+F4zL7yJnrAAKYHVxwggpvB/YO7i44aqlS57DfAwXmp34Za6VlBVw
        1SR76fYWCnHcZyJz+hqV9jsUR870qaAFCLZCwBqjlU2qWVEFt+qU9fYfPfIvjO+3
        tHdSEgiUfn46Ml3GFhZVevd67ASAuN4xDx/YN5B1otFN1cqaEnbI2dMcWorPp/pI
        7qWI5RmEDAFhj1xJAh0Aj5TggCwlqfLH88rcBhuf+8CSsVFBksrjb2oPVwKCAQEA
        lcbR35AggALYerO/GZcfaa/GvaMkzlTCoUYHoTUcPnNXFKyu6nN93IpGs3B044zc
        bICyxDhwR9nKA5bHfqJoVfUKpF0w5B23Ec0SZAHX+JtCUAxl0GAH0nHygzZ3wwxL
        wwpYHhTjBBUVgITDlo/8Pu6qNc4OxM2zMvkR1ZXdodZS5V3myuOW9U5PICnBhD0d
        4/u6XoqQqH2Fx24jA54ELBfiiLWQxcOxlKBKNW5xPxEBJffrDRnbw4qhesM/2VEp
        aTn4qH4H7c4Zgr1BCDS4++Buas4/BWzpid8L3OL9aMyAgc374e0tmqWz/GqQrn9C
        2pR/N9cuxNJs0Bo7q9kOgAOCAQUAAoIBAB9CW3uMC94MoVp/Q48DD2RpuAH9sqP6
        T0Su5evVNZJdvw2TaksAEaktq+HKFhM4j08KCFACX7hkpHp8V5BQCPGFyyEmdvaE
        QonNUzDTsqPxoWzeq/zP2/Y9P9M1VGgm0CyaHSU4GGM7Qb/JF8Sw0QO49tUQdN01
        pF5vuOPozZW8QHm0jFqjBF055htMwj4AS09u7/jeBFjQSAx+O5b6MwCBCVlkYa8P
        NFxaghlIbPpeZH00qtkjrZiVg9S9dV5obyUpf7SvDxYvFkRh+KdlRktMMKkOsqbW
        lNcZx17O5RpIF+AqIjrZ8EC27hDlqUgmif08vITbd8m+92m8rZ2KrhOjUzBRMB0G
        A1UdDgQWBBSzmJtsU8cvScpPlUArk3LoUZNhkDAfBgNVHSMEGDAWgBSzmJtsU8cv
        ScpPlUArk3LoUZNhkDAPBgNVHRMBAf8EBTADAQH/MAsGCWCGSAFlAwQDAgM/ADA8
        Ahxwt6qL37nvGmsOM3S0Y+ekjkIiDc1folwiFZSlAhxgwRwmw1BfdFj3p0TBPHuy
        dvSRSV33CmBPg9a8
        -----END CERTIFICATE-----
        """
}
