"""What comes from outside, stated once: one module for each format, one door for each file.

Each module declares its format (keys, types, shapes, ranges) with the fields of ``uniad.formats.fields`` and checks a whole file
against it when the file is opened. A file that does not fit is a UserError of one line: file, key or token, what was found, what
is needed. Code behind the door checks nothing again.

    calibration   poses and camera projections
    canbus        pose messages of the CAN bus expansion
    card          the JSON card beside an ONNX or a TensorRT engine
    drive         the record of a drive in closed loop
    frames        frames.json of a recorded folder
    infos         nuscenes_infos_temporal_*.pkl
    layout        names of versions, tables, sensors and folders
    nuscenes      the tables of a nuScenes version
    results       a folder that inference wrote
    times         units of time and the rate of keyframes
"""
