print("mwstorage")
