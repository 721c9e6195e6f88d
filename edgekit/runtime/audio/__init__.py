"""Sources and sinks of sound: files, the microphone, the loudspeaker. Knows samples; knows nothing of speech."""
