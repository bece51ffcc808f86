"""What fid_kid.py is made of: pictures to features, by which networks, their distances; pictures in pairs."""
