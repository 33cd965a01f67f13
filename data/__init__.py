"""Files in, typed values out: scans, cameras, prompts and cached artifacts."""
